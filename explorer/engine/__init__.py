"""What the model does under an intervention."""
