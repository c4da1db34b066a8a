"""What judges pictures: the masker, scorers and known truth that belong to a model."""
