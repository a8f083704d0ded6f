"""Train a registration network: ``python train.py [method=...] [data=...] [key=value ...]``;
``--help`` lists the groups.
"""

from lightning_reg.cli.train import main

if __name__ == "__main__":
    main()
