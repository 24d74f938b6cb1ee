"""What a text says of itself: reflection, self-correction, readability, repetition, languages."""
