"""What a network is tested on."""
