"""What a run looks like from outside: metric glossary, live view, trackers, report. They read; they never steer."""
