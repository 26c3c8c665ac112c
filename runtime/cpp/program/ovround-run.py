#!python
from ovround.runtime.native_program import main

main()
