"""The conditional family: condition, conditioner, bottleneck, decoder, head."""
