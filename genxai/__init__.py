"""genxai: train, sweep and tabulate explainable, bias-aware generative models."""

__version__ = "0.1.0"
