"""What runs on the isolated host: engine, record, accounts, isolation and the supervisor that starts them."""
