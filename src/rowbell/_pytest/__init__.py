"""The parts of the fixtures of ``rowbell_pytest``."""
