"""Virtual time, chance, clients, and the record of what truly happened."""
