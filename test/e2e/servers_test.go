package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/test/e2e/move"
	"godwit.dev/godwit/test/lab"
	"godwit.dev/godwit/test/pace"
	"godwit.dev/godwit/test/postgres"
	"godwit.dev/godwit/test/workload"
)

// get asks a web server once; a new connection each time, as a browser that comes by.
func get(ctx context.Context, address string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, pace.Stretch(time.Second))
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/", nil)
	if err != nil {
		return "", err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %s", resp.Status)
	}
	return string(body), err
}

// nginxUser is a command that has the workers run as root where Debian's own user could not be dumped: CRIU reads limits of a process of
// another user with prlimit, which takes CAP_SYS_RESOURCE (kernel: kernel/sys.c, check_prlimit_permission).
func nginxUser(t *testing.T, n *lab.Node) string {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.PID()))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if set, ok := strings.CutPrefix(line, "CapEff:"); ok {
			caps, err := strconv.ParseUint(strings.TrimSpace(set), 16, 64)
			if err != nil {
				t.Fatal(err)
			}
			if caps&(1<<unix.CAP_SYS_RESOURCE) != 0 {
				return ""
			}
		}
	}
	t.Log("no CAP_SYS_RESOURCE here: nginx' workers run as root")
	return "sed -i 's/^user .*/user root;/' /etc/nginx/nginx.conf && "
}

func TestNginxServesWhileItIsMoved(t *testing.T) {
	a, b := nodes(t)
	p := runPod(t, a, lab.PodSpec{Name: "nginx", Containers: []lab.ContainerSpec{{
		Name: "nginx", Image: image(t, "nginx", "nginx-light"),
		// The image comes without what packages leave in /var.
		Command: []string{"/bin/sh", "-c", "mkdir -p /var/log/nginx /var/lib/nginx /run && echo moved >/var/www/html/index.html && " + nginxUser(t, a) + "exec nginx -g 'daemon off;'"},
	}}})
	ctx := within(t, 90*time.Second)
	for {
		if body, err := get(ctx, p.at("80")); err == nil && body == "moved\n" {
			break
		} else if ctx.Err() != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond)
	}

	// Visitors come all the time; whoever gets an answer gets the right one.
	var address atomic.Value
	address.Store(p.at("80"))
	var answers, wrong atomic.Int64
	visits, end := context.WithCancel(ctx)
	var visitors sync.WaitGroup
	defer visitors.Wait()
	defer end()
	for range 2 {
		visitors.Go(func() {
			for visits.Err() == nil {
				body, err := get(visits, address.Load().(string))
				switch {
				case err == nil && body == "moved\n":
					answers.Add(1)
				case err == nil:
					wrong.Add(1)
				}
				time.Sleep(5 * time.Millisecond)
			}
		})
	}
	m, err := move.Start(ctx, a, p.name, b.Name)
	if err != nil {
		t.Fatal(err)
	}
	freezing, err := m.Await(ctx, "freezing")
	if err != nil {
		t.Fatal(err)
	}
	served := answers.Load()
	if served == 0 {
		t.Error("nobody was served while memory was copied")
	}
	address.Store(freezing.Destination.PodIP + ":80")
	r, err := m.Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	p.moved(b, r)
	for answers.Load() < served+50 {
		if ctx.Err() != nil {
			t.Fatalf("%d visitors were served after the move", answers.Load()-served)
		}
		time.Sleep(20 * time.Millisecond)
	}
	if wrong.Load() > 0 {
		t.Errorf("%d visitors got something else", wrong.Load())
	}
	t.Logf("%d visitors served before, %d after", served, answers.Load()-served)
}

// Many processes with memory that they share, files that all of them write, and connections to each other, which have to be there afterwards.
func TestPostgresKeepsItsTransactionsAndConnections(t *testing.T) {
	a, _ := nodes(t)
	program, err := postgres.New(t.Context(), 64<<20)
	if err != nil {
		t.Fatal(err)
	}
	p := runPod(t, a, lab.PodSpec{Name: "postgres", Containers: []lab.ContainerSpec{{
		Name: "postgres", Image: makeImage(t, "postgres", postgres.Image), Command: program.Args, UID: &program.User,
	}}})
	c := postgres.NewClient(p.at(postgres.Port))
	if err := c.Fill(within(t, 2*time.Minute)); err != nil {
		t.Fatal(err)
	}
	thereAndBack(t, p, func() {
		c.OnlyAt(p.at(postgres.Port))
		inserting, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		c.Ask(inserting, 200)
		if err := c.Verify(within(t, time.Minute)); err != nil {
			t.Fatal(err)
		}
		t.Logf("%d transactions of the client, and pgbench's", len(c.Answers()))
	})
	// What its processes have changed of their program and libraries, more than a MiB each, is there before.
	_, b := nodes(t)
	if sent := mib(p.moveTo(b).ImageBytes); sent > 8 {
		t.Errorf("%.1f MiB of images were sent while the pod was frozen", sent)
	}
}

// python has threads that hold locks and wait, timers, a heap full of objects, and an interpreter that is anything but static.
const python = `
import hashlib, random, signal, socketserver, threading, time
blocks = {i: random.randbytes(1000) for i in range(20000)}
sums = {i: hashlib.sha256(b).digest() for i, b in blocks.items()}
counts = {"thread": 0, "timer": 0, "alarm": 0}
lock, condition, queue = threading.Lock(), threading.Condition(), []

def work():
    while True:
        i = random.randrange(20000)
        b = random.randbytes(1000)
        with lock:
            blocks[i], sums[i] = b, hashlib.sha256(b).digest()
            counts["thread"] += 1
        with condition:
            queue.append(i)
            condition.notify()
        time.sleep(0.002)

def consume():
    while True:
        with condition:
            while not queue:
                condition.wait()
            queue.pop()

def tick():
    counts["timer"] += 1
    t = threading.Timer(0.05, tick)
    t.daemon = True
    t.start()

def alarm(*_):
    counts["alarm"] += 1

class Check(socketserver.StreamRequestHandler):
    def handle(self):
        self.rfile.readline()
        before = dict(counts)
        with lock:
            bad = [i for i, b in blocks.items() if hashlib.sha256(b).digest() != sums[i]]
        time.sleep(0.3)
        still = [k for k in counts if counts[k] == before[k]]
        if bad or still:
            self.wfile.write(("wrong: blocks %s, standing still %s\n" % (bad[:5], still)).encode())
        else:
            self.wfile.write(("ok " + " ".join("%s=%d" % kv for kv in counts.items()) + " threads=%d\n" % threading.active_count()).encode())

signal.signal(signal.SIGALRM, alarm)
signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
for f in [work] * 4 + [consume]:
    threading.Thread(target=f, daemon=True).start()
tick()
socketserver.ThreadingTCPServer.allow_reuse_address = True
socketserver.ThreadingTCPServer(("0.0.0.0", 7000), Check).serve_forever()
`

func TestPythonKeepsItsThreadsTimersAndObjects(t *testing.T) {
	a, _ := nodes(t)
	p := runPod(t, a, lab.PodSpec{Name: "python", Containers: []lab.ContainerSpec{{
		Name: "python", Image: image(t, "python", "python3"), Command: []string{"python3", "-c", python},
	}}})
	thereAndBack(t, p, func() { t.Log(p.check(workload.Port)) })
}
