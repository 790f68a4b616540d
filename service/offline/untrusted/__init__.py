"""Inputs that clients of the service choose: what they may contain, and where they may be."""
