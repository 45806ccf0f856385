// Command web answers every HTTP request on port 8080 with the name of its host, and says so: a pod for tests of services. For
// /count it answers how often it was asked for that. With arguments it prints them instead: something to execute in the pod.
package main

import (
	"fmt"
	"log"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
)

func main() {
	if len(os.Args) > 1 {
		fmt.Println(strings.Join(os.Args[1:], " "))
		return
	}
	name, err := os.Hostname()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("listening on", name)
	var count atomic.Int64
	http.HandleFunc("/count", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, count.Add(1)) })
	http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, name) })
	log.Fatal(http.ListenAndServe(":8080", nil))
}
