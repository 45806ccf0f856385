// Package podcheck judges from objects of the cluster whether a pod can be moved,
// whether a node can take it, and which node should. All of it is pure: who reads
// the objects, and acts, is nodecontroller/kubernetes. What the pod's processes
// hold is package processcheck's.
package podcheck

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
	"godwit.dev/godwit/nodecontroller/obstacle"
)

// Result is what is found out about a pod.
type Result struct {
	Findings []obstacle.Finding
	// LatePod says that the destination's pod can be made only after the source's
	// is gone: see LateBecause.
	LatePod bool
	// LateBecause has a phrase for each reason.
	LateBecause []string
}

func (r *Result) add(f ...obstacle.Finding) { r.Findings = append(r.Findings, f...) }

func (r *Result) late(format string, args ...any) {
	r.LatePod = true
	r.LateBecause = append(r.LateBecause, fmt.Sprintf(format, args...))
}

// OfPod judges a pod and what its volumes are.
func OfPod(pod *corev1.Pod, storage Storage) Result {
	var r Result
	r.add(ofState(pod)...)
	r.add(ofOwner(pod)...)
	if owner := metav1.GetControllerOf(pod); owner != nil && owner.Kind == "StatefulSet" {
		r.late("StatefulSet %s gives the pod's name to no other pod while this one exists", owner.Name)
	}
	r.add(ofSpec(&pod.Spec)...)
	r.add(ofContainers(pod)...)
	ofVolumes(pod, storage, &r)
	return r
}

// ofState is about where the pod stands.
func ofState(pod *corev1.Pod) []obstacle.Finding {
	var found []obstacle.Finding
	if pod.DeletionTimestamp != nil {
		found = append(found, obstacle.Refuse("the pod is being deleted"))
	}
	if pod.Status.Phase != corev1.PodRunning {
		found = append(found, obstacle.Refuse("the pod is %s, not Running: wait until it runs", orUnknown(string(pod.Status.Phase))))
	}
	if id := pod.Annotations[v1alpha1.AnnotationMigration]; id != "" {
		found = append(found, obstacle.Refuse("the pod arrives by migration %s still: wait until that has succeeded", id))
	}
	if pod.Annotations[v1alpha1.AnnotationReleased] != "" {
		found = append(found, obstacle.Refuse("another migration moves the pod away: wait until that is over"))
	}
	return append(found, ofStatuses(pod)...)
}

// ofStatuses is about containers that do not run: they would be started anew at
// the destination, where only those that run are restored.
func ofStatuses(pod *corev1.Pod) []obstacle.Finding {
	if pod.Status.Phase != corev1.PodRunning {
		return nil // that is said already
	}
	var found []obstacle.Finding
	sidecars := make(map[string]bool)
	for _, c := range pod.Spec.InitContainers {
		sidecars[c.Name] = c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
	}
	statuses := slices.DeleteFunc(slices.Clone(pod.Status.InitContainerStatuses), func(s corev1.ContainerStatus) bool { return !sidecars[s.Name] })
	for _, s := range append(statuses, pod.Status.ContainerStatuses...) {
		switch {
		case s.State.Terminated != nil:
			found = append(found, obstacle.Refuse("container %s has ended (%s) and would be started again at the destination: a pod moves only while all its containers run", s.Name, orUnknown(s.State.Terminated.Reason)))
		case s.State.Running == nil:
			reason := ""
			if s.State.Waiting != nil {
				reason = s.State.Waiting.Reason
			}
			found = append(found, obstacle.Refuse("container %s does not run (%s): wait until it does", s.Name, orUnknown(reason)))
		}
	}
	for _, s := range pod.Status.EphemeralContainerStatuses {
		if s.State.Running != nil {
			found = append(found, obstacle.Refuse("the ephemeral container %s runs in the pod, which cannot be made again: end the debugging session", s.Name))
		}
	}
	return found
}

func orUnknown(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}

// ofOwner is about who makes the pod.
func ofOwner(pod *corev1.Pod) []obstacle.Finding {
	if _, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]; mirror {
		return []obstacle.Finding{obstacle.Refuse("it is a static pod, which its node's kubelet makes from a file: move the file")}
	}
	owner := metav1.GetControllerOf(pod)
	if owner == nil {
		return nil
	}
	switch owner.Kind {
	case "ReplicaSet", "StatefulSet", "Job":
		return nil
	case "DaemonSet":
		return []obstacle.Finding{obstacle.Refuse("DaemonSet %s has one pod on each node, and would make another here at once", owner.Name)}
	}
	return []obstacle.Finding{obstacle.Refuse("its controller is %s %s (%s), whose next pod cannot be made the destination's: supported are ReplicaSet, StatefulSet, Job and pods without a controller",
		owner.Kind, owner.Name, owner.APIVersion)}
}

// ofSpec is about the pod as a whole.
func ofSpec(spec *corev1.PodSpec) []obstacle.Finding {
	var found []obstacle.Finding
	if spec.RuntimeClassName == nil || *spec.RuntimeClassName != v1alpha1.RuntimeClass {
		class := "none"
		if spec.RuntimeClassName != nil {
			class = *spec.RuntimeClassName
		}
		found = append(found, obstacle.Refuse("its runtimeClassName is %s: only pods that were made with %s can be moved", class, v1alpha1.RuntimeClass))
	}
	for _, host := range []struct {
		name string
		set  bool
	}{{"hostNetwork", spec.HostNetwork}, {"hostPID", spec.HostPID}, {"hostIPC", spec.HostIPC}} {
		if host.set {
			found = append(found, obstacle.Refuse("it has %s: what it shares with its node cannot be moved", host.name))
		}
	}
	if spec.ShareProcessNamespace != nil && *spec.ShareProcessNamespace {
		found = append(found, obstacle.Refuse("it has shareProcessNamespace: CRIU dumps a pid namespace only with its first process, and that is the pod's sandbox"))
	}
	if spec.HostUsers != nil && !*spec.HostUsers {
		found = append(found, obstacle.Refuse("it has hostUsers: false: moving a pod with a user namespace of its own is not supported"))
	}
	if len(spec.ResourceClaims) > 0 {
		names := make([]string, len(spec.ResourceClaims))
		for i, c := range spec.ResourceClaims {
			names[i] = c.Name
		}
		found = append(found, obstacle.Refuse("it has resource claims (%s): devices of a node cannot be moved", strings.Join(names, ", ")))
	}
	if spec.ActiveDeadlineSeconds != nil {
		found = append(found, obstacle.Warn("its activeDeadlineSeconds begins to count anew"))
	}
	return found
}
