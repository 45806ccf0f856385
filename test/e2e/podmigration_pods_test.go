package e2e

import (
	"fmt"
	"strings"
)

// The pods of the tests on the cluster: each has a redis that a client writes to, and a shell that counts in files.

const redisCommand = `redis-server, --save, "", --appendonly, "no", --protected-mode, "no", --bind, 0.0.0.0, --enable-debug-command, "yes"`

// tickFiles are what ticksOf's program counts in, a line for each number.
var tickFiles = []string{"/data/ticks", "/part/ticks", "/memory/ticks", "/own"}

// ticksOf is a shell's program that bears the name of its app.
func ticksOf(app string) string {
	return ": app=" + app + "; i=0; while :; do i=$((i+1)); for f in " + strings.Join(tickFiles, " ") + "; do echo $i >> $f; done; sleep 0.2; done"
}

// counter describes a pod of two containers, redis and ticks, with volumes on disk and in memory. Where a field is YAML, it is of one line
// or of one for each element.
type counter struct {
	app  string // the value of its label app
	node string // empty: the scheduler's choice

	metadata string   // YAML: more of it, in flow style
	hostname string   // empty: the pod's name
	image    string   // empty: the cluster's
	volumes  []string // YAML: more of them
	// YAML: more mounts of each container.
	redisMounts, ticksMounts []string
	script                   string // of the container ticks; empty: ticksOf(app)
}

// pod is the manifest of one of that name.
func (c counter) pod(name string) string {
	more := ""
	if c.metadata != "" {
		more = ", " + c.metadata
	}
	return fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: %s, labels: {app: %s}%s}\nspec:\n%s", name, c.app, more, c.spec("  "))
}

// spec is what stands below a pod's "spec:", or a template's.
func (c counter) spec(indent string) string {
	image, script := c.image, c.script
	if image == "" {
		image = theCluster.image
	}
	if script == "" {
		script = ticksOf(c.app)
	}
	lines := []string{"runtimeClassName: godwit", "terminationGracePeriodSeconds: 0"}
	if c.node != "" {
		lines = append(lines, "nodeName: "+c.node)
	}
	if c.hostname != "" {
		lines = append(lines, "hostname: "+c.hostname)
	}
	list := func(of string, common, more []string) {
		lines = append(lines, of)
		for _, e := range append(common, more...) {
			lines = append(lines, "  - "+e)
		}
	}
	list("volumes:", []string{"{name: disk, emptyDir: {}}", "{name: memory, emptyDir: {medium: Memory}}"}, c.volumes)
	lines = append(lines, "containers:",
		"- name: redis", fmt.Sprintf("  image: %q", image), "  imagePullPolicy: Never", "  command: ["+redisCommand+"]")
	list("  volumeMounts:", []string{"{name: disk, mountPath: /work}"}, c.redisMounts)
	lines = append(lines,
		"- name: ticks", fmt.Sprintf("  image: %q", image), "  imagePullPolicy: Never", fmt.Sprintf("  command: [sh, -c, %q]", script))
	list("  volumeMounts:", []string{
		"{name: disk, mountPath: /data}", "{name: disk, mountPath: /part, subPath: part}", "{name: memory, mountPath: /memory}",
	}, c.ticksMounts)
	return indent + strings.Join(lines, "\n"+indent) + "\n"
}

// withShared gives the pod one more volume, at /shared, and what it runs beside redis.
func (c counter) withShared(volume, script string) counter {
	c.volumes = append(c.volumes, "{name: shared, "+volume+"}")
	c.ticksMounts = append(c.ticksMounts, "{name: shared, mountPath: /shared}")
	c.script = script
	return c
}
