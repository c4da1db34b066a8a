"""``riebench sae``: collect values, train SAEs on them, judge and show their features."""

from __future__ import annotations

from riebench.cli.messages import App
from riebench.cli.sae_collect_command import sae_collect_command
from riebench.cli.sae_score_command import sae_score_command
from riebench.cli.sae_show_command import sae_index_command, sae_show_command
from riebench.cli.sae_train_command import sae_train_command

sae_app = App(help="Sparse autoencoders: collect values, train, score, show.", no_args_is_help=True)
sae_app.command("collect")(sae_collect_command)
sae_app.command("train")(sae_train_command)
sae_app.command("index")(sae_index_command)
sae_app.command("score")(sae_score_command)
sae_app.command("show")(sae_show_command)
