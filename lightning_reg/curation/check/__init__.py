"""What is wrong with data, said before they are trained on."""
