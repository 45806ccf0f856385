// Package guest is what the machine that runs a virtual machine and PID 1 in it say to each other: JSON values, one after
// the other, over a virtio serial port. It has no behaviour of its own.
package guest

// Names by which the guest finds its devices.
const (
	// Port is the name of the virtio serial port (/sys/class/virtio-ports/*/name).
	Port = "godwit.control"
	// SystemDisk has the lab's cache and the kernel's modules; PayloadDisk what a run brings along. They are
	// serial numbers (/sys/block/*/serial).
	SystemDisk  = "godwit-system"
	PayloadDisk = "godwit-payload"
)

// Directories in the guest.
const (
	// System is where the system disk is seen, as it is.
	System = "/system"
	// Payload is where the payload disk is seen, read-only.
	Payload = "/payload"
	// Out takes the files that the run is to hand back, of MaxFile bytes each.
	Out = "/out"
)

// On the system disk.
const (
	CacheDir   = "cache"   // the lab's cache, as lab.Cached says
	ModulesDir = "modules" // as /usr/lib/modules
	Busybox    = "busybox" // a static busybox, for modprobe
)

// BootModules is the directory of the initial RAM file system with modules, in the order in which they are loaded.
const BootModules = "/modules"

// MaxFile is the largest file that is handed back, bytes.
const MaxFile = 16 << 20

// Spec is the one thing that the host says.
type Spec struct {
	// Cache is where the lab's cache is seen, and Root the machine's root file system in it, relative to that.
	Cache string `json:"cache"`
	Root  string `json:"root"`
	// Modules of the kernel to load; one that does not exist is said on the console, and left out.
	Modules []string `json:"modules"`
	// Env are variables of all steps, "NAME=value".
	Env   []string `json:"env"`
	Steps []Step   `json:"steps"`
}

// Step is one command.
type Step struct {
	Name string   `json:"name"`
	Args []string `json:"args"`
	Env  []string `json:"env"`
}

// Message is what the guest says. Of its fields one has a value, except Step, which goes with Output and Ended.
type Message struct {
	Step   int    `json:"step"`
	Output []byte `json:"output,omitempty"`
	Ended  *Ended `json:"ended,omitempty"`
	File   *File  `json:"file,omitempty"`
	// Failed says why the steps cannot be run.
	Failed string `json:"failed,omitempty"`
	// Done: there is no more to come.
	Done bool `json:"done,omitempty"`
}

// Ended is how a step ended. Code is its exit status, or 128 and the signal.
type Ended struct {
	Code    int     `json:"code"`
	Error   string  `json:"error,omitempty"`
	Seconds float64 `json:"seconds"`
}

// File is a file below Out.
type File struct {
	Name string `json:"name"`
	Data []byte `json:"data"`
}
