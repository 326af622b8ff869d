from archloom.main import main

main()
