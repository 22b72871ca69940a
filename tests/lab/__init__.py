"""The lab in virtual machines: `make lab-test` boots what `vagrant up` would and runs checks against it."""
