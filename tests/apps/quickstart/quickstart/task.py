"""quickstart: a Flower / PyTorch app."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset


class Net(nn.Module):
    """A small network for 8 x 8 digits."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3)
        self.fc = nn.Linear(8 * 6 * 6, 10)

    def forward(self, x):
        return self.fc(F.relu(self.conv(x)).flatten(1))


def load_data(partition_id: int, num_partitions: int, batch_size: int, seed: int):
    """Every num_partitions-th digit: a fifth to test, the rest to train in an order that the seed decides."""
    pixels, labels = load_digits(return_X_y=True)
    x, y = torch.from_numpy(pixels).float().view(-1, 1, 8, 8) / 16, torch.from_numpy(labels)
    mine = TensorDataset(x[partition_id::num_partitions], y[partition_id::num_partitions])
    cut = len(mine) * 4 // 5
    trainset = torch.utils.data.Subset(mine, range(cut))
    testset = torch.utils.data.Subset(mine, range(cut, len(mine)))
    generator = torch.Generator().manual_seed(seed)
    return DataLoader(trainset, batch_size=batch_size, shuffle=True, generator=generator), DataLoader(testset, batch_size=batch_size)


def train(net, trainloader, epochs, lr):
    """Train the model on the training set."""
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)
    net.train()
    running_loss = 0.0
    for _ in range(epochs):
        for images, labels in trainloader:
            optimizer.zero_grad()
            loss = F.cross_entropy(net(images), labels)
            loss.backward()
            optimizer.step()
            running_loss += loss.item()
    return running_loss / (epochs * len(trainloader))


def test(net, testloader):
    """Validate the model on the test set."""
    net.eval()
    correct, loss = 0, 0.0
    with torch.no_grad():
        for images, labels in testloader:
            outputs = net(images)
            loss += F.cross_entropy(outputs, labels, reduction="sum").item()
            correct += (outputs.argmax(1) == labels).sum().item()
    examples = len(testloader.dataset)
    return loss / examples, correct / examples
