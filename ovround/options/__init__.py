"""What a user may say: each option is declared once."""
