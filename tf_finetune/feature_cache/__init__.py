"""What is frozen is computed once: the features of every example, by a compiled graph."""
