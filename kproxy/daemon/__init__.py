"""The process: wiring, time, and the questions from outside."""
