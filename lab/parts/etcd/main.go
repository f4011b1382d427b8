// Command etcd is etcd with all of its flags. Its own main package would be
// installed under the name "server".
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() { etcdmain.Main(os.Args) }
