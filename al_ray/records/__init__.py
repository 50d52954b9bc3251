"""What is stored of a study, and the proof that it is whole."""
