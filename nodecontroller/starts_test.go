package nodecontroller

import (
	"os"
	"strings"
	"testing"
)

// TestMain stands in for the daemon where a start runs it anew.
func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == StartCommand {
		if os.Args[2] == "/fails" {
			os.Stderr.WriteString("no such container\n")
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestStartsEndWithWhatContainerdSaid(t *testing.T) {
	for socket, says := range map[string]string{"/fine": "", "/fails": "no such container"} {
		s, err := startProcesses(socket, []string{"c1", "c2"})
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 2)
		s.whenOneEnds(func(err error) { ended <- err })
		s.wait()
		for range 2 {
			err := <-ended
			if says == "" && err != nil || says != "" && (err == nil || !strings.Contains(err.Error(), says)) {
				t.Errorf("%s: start ended with %v, want %q", socket, err, says)
			}
		}
	}
	var none *starts
	none.wait()
}
