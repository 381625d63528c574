"""What the fixtures of ``rowbell_pytest`` are made of."""
