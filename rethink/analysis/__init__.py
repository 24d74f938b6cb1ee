"""Analysis of text: reflection, self-correction, readability, repetition, languages."""
