"""The statements of the paper, each as a function."""
