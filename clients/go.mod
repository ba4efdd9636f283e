module github.com/inferweir/weir/clients

go 1.26.0
