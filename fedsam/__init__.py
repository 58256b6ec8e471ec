"""The engine: knows torch, Flower and Ray; knows no algorithm."""
