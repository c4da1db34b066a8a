"""The instruments of a model: its masker, the networks that score its pictures, and the known truth."""
