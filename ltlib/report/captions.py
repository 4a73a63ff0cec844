"""What captions of several notebooks say in the same words."""

SMALL = (
    "A linear model of Digits-LT (100 classes of handwritten pairs of digits, at most 110 images "
    "each)"
)
ACCURACY = f"Accuracy (%) on the balanced test. {SMALL}; mean and 95 % interval over three seeds."
GRADIENTS = (
    "The gradient that a class of each group receives in an epoch of the long-tailed training set, "
    "on images that the network has not memorised. One trained model for each line, the first seed."
)
