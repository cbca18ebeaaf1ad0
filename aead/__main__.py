"Runs the command line: `python -m aead`."
from aead.cli import main

if __name__=="__main__": main()
