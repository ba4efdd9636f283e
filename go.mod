module github.com/inferweir/weir

go 1.26.0

require (
	github.com/alecthomas/kong v1.17.0 // indirect
	github.com/dunglas/httpsfv v1.1.2 // indirect
	github.com/goccy/go-yaml v1.19.2 // indirect
	github.com/jonreiter/govader v0.0.0-20250429093935-f6505c8d03cc // indirect
	github.com/prometheus/client_golang v1.25.0 // indirect
	github.com/rogpeppe/go-internal v1.16.0 // indirect
	go.uber.org/goleak v1.3.0 // indirect
	gonum.org/v1/gonum v0.8.2 // indirect
	pgregory.net/rapid v1.3.0 // indirect
)
