"""What a fold refuses."""


class ImpossibleEvent(Exception):
    """The event cannot follow what the view has seen of its stream: a dead letter, never a guess."""
