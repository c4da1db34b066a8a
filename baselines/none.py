"""Nothing is added: the edited image is the base image."""

from riebench.methods import Observed, Plan, method


@method("none")
class Nothing:
    """No intervention; the floor of every comparison."""

    def plan(self, seen: Observed) -> Plan:
        return Plan()
