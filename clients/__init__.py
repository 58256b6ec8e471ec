"""What happens on a client: objective, local optimizers, corrections, local training, the Flower ClientApp."""
