package podcheck

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"godwit.dev/godwit/nodecontroller/obstacle"
)

// apparmorAnnotation, with a container's name after it, is how pods before
// Kubernetes 1.30 name a container's AppArmor profile.
const apparmorAnnotation = "container.apparmor.security.beta.kubernetes.io/"

// ofContainers is about the containers that run: sidecars and the main ones.
func ofContainers(pod *corev1.Pod) []obstacle.Finding {
	var found []obstacle.Finding
	for _, c := range running(&pod.Spec) {
		found = append(found, ofContainer(&c)...)
	}
	return append(found, ofProfiles(pod)...)
}

// running are the containers that are there while the pod runs.
func running(spec *corev1.PodSpec) []corev1.Container {
	sidecars := slices.DeleteFunc(slices.Clone(spec.InitContainers), func(c corev1.Container) bool {
		return c.RestartPolicy == nil || *c.RestartPolicy != corev1.ContainerRestartPolicyAlways
	})
	return append(sidecars, spec.Containers...)
}

func ofContainer(c *corev1.Container) []obstacle.Finding {
	var found []obstacle.Finding
	switch {
	case c.TTY:
		found = append(found, obstacle.Refuse("container %s has a terminal: run it with tty: false", c.Name))
	case c.Stdin:
		found = append(found, obstacle.Warn("container %s has stdin: true: who is attached to it is cut off", c.Name))
	}
	var devices []string
	for name := range c.Resources.Requests {
		if isDevice(name) {
			devices = append(devices, string(name))
		}
	}
	for name := range c.Resources.Limits {
		if isDevice(name) && !slices.Contains(devices, string(name)) {
			devices = append(devices, string(name))
		}
	}
	if len(devices) > 0 {
		slices.Sort(devices)
		found = append(found, obstacle.Refuse("container %s uses %s: devices of a node cannot be moved", c.Name, strings.Join(devices, ", ")))
	}
	if len(c.VolumeDevices) > 0 {
		found = append(found, obstacle.Refuse("container %s has the raw block device of volume %s: CRIU cannot dump devices", c.Name, c.VolumeDevices[0].Name))
	}
	for _, m := range c.VolumeMounts {
		if m.MountPropagation != nil && *m.MountPropagation == corev1.MountPropagationBidirectional {
			found = append(found, obstacle.Refuse("container %s mounts volume %s with propagation to its node, where mounts made by it would be missing", c.Name, m.Name))
		}
	}
	return found
}

// isDevice says whether a resource is what a device plugin hands out: its name has a domain that is not
// Kubernetes's own (kubernetes: pkg/apis/core/v1/helper, IsExtendedResourceName).
func isDevice(name corev1.ResourceName) bool {
	domain, _, ok := strings.Cut(string(name), "/")
	return ok && domain != "kubernetes.io" && !strings.HasSuffix(domain, ".kubernetes.io") && !strings.HasPrefix(string(name), corev1.DefaultResourceRequestsPrefix)
}

// ofProfiles warns of profiles that are files of the source node: nobody can tell
// from here whether another has them.
func ofProfiles(pod *corev1.Pod) []obstacle.Finding {
	var found []obstacle.Finding
	add := func(whose, kind, profile string) {
		found = append(found, obstacle.Warn("%s needs the %s profile %s: it must be loaded on the destination as well, or the destination's pod does not start", whose, kind, profile))
	}
	if c := pod.Spec.SecurityContext; c != nil {
		if p := c.SeccompProfile; p != nil && p.Type == corev1.SeccompProfileTypeLocalhost && p.LocalhostProfile != nil {
			add("the pod", "seccomp", *p.LocalhostProfile)
		}
		if p := c.AppArmorProfile; p != nil && p.Type == corev1.AppArmorProfileTypeLocalhost && p.LocalhostProfile != nil {
			add("the pod", "AppArmor", *p.LocalhostProfile)
		}
	}
	for _, c := range running(&pod.Spec) {
		whose := "container " + c.Name
		if s := c.SecurityContext; s != nil {
			if p := s.SeccompProfile; p != nil && p.Type == corev1.SeccompProfileTypeLocalhost && p.LocalhostProfile != nil {
				add(whose, "seccomp", *p.LocalhostProfile)
			}
			if p := s.AppArmorProfile; p != nil && p.Type == corev1.AppArmorProfileTypeLocalhost && p.LocalhostProfile != nil {
				add(whose, "AppArmor", *p.LocalhostProfile)
				continue
			}
		}
		if p, ok := strings.CutPrefix(pod.Annotations[apparmorAnnotation+c.Name], "localhost/"); ok {
			add(whose, "AppArmor", p)
		}
	}
	return found
}
