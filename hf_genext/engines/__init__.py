"""Exported models: how they are written, found, checked and run by other engines than PyTorch."""
