"""`python -m SIFATrainingLib` is `sifa`; `torchrun -m SIFATrainingLib train ...` is `sifa train` on many devices."""

from .cli import main

if __name__ == "__main__":
    main()
