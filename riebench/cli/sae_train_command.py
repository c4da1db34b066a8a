"""``riebench sae train``."""
def sae_train_command() -> None:
    """x"""
