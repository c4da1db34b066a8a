"""The titles of the parts of an audit, and what each does, for the reader."""

from riebench.audit.findings import FAULTS, GAMING, NOISE, POWER, SAME_MASK, TRUTH

TITLES = {
    NOISE: "Noise: the same arms with other seeds",
    POWER: "Power: how many pairs tell two arms apart?",
    TRUTH: "Agreement with the truth",
    GAMING: "Gaming: pictures that no intervention made",
    SAME_MASK: "The same mask for all",
    FAULTS: "The published faults",
}
SAYS = {
    NOISE: (
        "The same prompts with other seeds make other layouts. Beside the standard deviation of an arm's mean"
        " between these runs stands the standard error that one run states (half its 95 % bootstrap interval "
        "over pairs, by 1.96). The bootstrap draws pairs, that is, prompts and seeds; so the ratio should be "
        "1 at most. 'Pooled' takes root mean squares over arms. An order of two arms is that of their means "
        "over the pairs that both have; told apart: paired sign-flip test, Holm over all two arms, 5 %."
    ),
    POWER: (
        "Share of all two arms that are told apart (as on the leaderboard: paired sign flips, Holm, 5 %) in "
        "subsamples of the pairs without replacement; in brackets the middle 95 % of the subsamples. Few "
        "pairs have no p-value that stays below 5 % after Holm's correction over many arms. Then the pairs at"
        " which a single paired t-test, without such a correction, sees a true difference with power .8: "
        "paired differences of two real interventions are centred, shifted by the effect and drawn with "
        "replacement. Pairs that both bring to the LPIPS count."
    ),
    TRUTH: (
        "Spearman's rank correlation with edit_success x kept; the sign is turned where lower is better, so "
        "that agreement is positive. Over settings, methods and interventions (methods without controls): of "
        "means over the pairs that all of them have; over pairs: within a setting, averaged over settings. In "
        "brackets 95 % bootstrap intervals over pairs. edit_success is a part of the truth. Over settings, "
        "whatever grows with strength agrees to some degree, as LPIPS shows. Other protocols are compared "
        "on the settings and pairs of both, the interval is that of the difference."
    ),
    GAMING: (
        "paste lays the source picture's pixels inside the masks on the base picture, noise adds noise there;"
        " both at the LPIPS budget. none is the base picture and prompt the source picture, whatever their "
        "LPIPS. A score that cannot tell them from the best intervention says nothing about representations. "
        "The best is that with the highest mean here, and each test stands by itself. 'wins' is the share of "
        "(pair, intervention) in which the picture scores higher, ties counting half."
    ),
    SAME_MASK: (
        "Pictures at the LPIPS budget, with the base picture's pixels outside the pair's masks, scored again."
        " What is left of a difference between two methods comes from inside the masks; what is gone was "
        "mask, not method. Intervals: bootstrap over pairs, the same resamples before and after. The "
        "composites cost less LPIPS."
    ),
    FAULTS: (
        "The protocol riebench with one published fault each, and paper with all, at fixed strengths: means "
        "of the same settings, each over the pairs that it scored. Rank correlation: Spearman's, over settings,"
        " of the two rankings; 1 means that the fault changes no rank. The largest change is on the pairs "
        "that both scored. A fault that changes no setting had nothing to act on: mini's masker has no box "
        "threshold and its CLIP one activation, so 'threshold' and 'gelu' can do nothing there. Vanished: a "
        "pair counts once for each setting."
    ),
}
