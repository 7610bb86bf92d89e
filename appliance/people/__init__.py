"""Who may use the appliance: accounts, ways to sign in, keys, quotas, and what each person keeps."""
