package gateway_test

import "flag"

// ledgerSize is how many requests TestCountersEqualTheLedger makes.
var ledgerSize = flag.Int("ledger", 8000, "requests of the test of the ledger")
