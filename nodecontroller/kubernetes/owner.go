package kubernetes

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
)

// The kinds of owners whose pods can be moved.
const (
	kindReplicaSet  = "ReplicaSet"
	kindStatefulSet = "StatefulSet"
	kindJob         = "Job"
)

// ownerOf is a pod's controller, nil for a bare pod.
func ownerOf(pod *corev1.Pod) *v1alpha1.Owner {
	o := metav1.GetControllerOf(pod)
	if o == nil {
		return nil
	}
	return &v1alpha1.Owner{APIVersion: o.APIVersion, Kind: o.Kind, Name: o.Name, UID: o.UID}
}

// released is what a source's pod was before it was taken out of its owner's
// selection, to be put back if the migration is broken off.
type released struct {
	// Labels that were changed, as they were.
	Labels map[string]string `json:"labels"`
}

// releaseLabel is the label by which a pod leaves its owner with the least other
// effect: one that only the owner's controller selects by, if there is one.
// Services select by what users write, not by these.
func releaseLabel(kind string, selector *metav1.LabelSelector) (string, error) {
	var own []string
	switch kind {
	case kindReplicaSet:
		own = []string{appsv1.DefaultDeploymentUniqueLabelKey}
	case kindJob:
		own = []string{batchv1.ControllerUidLabel, "controller-uid"}
	}
	if selector != nil {
		for _, key := range own {
			if _, ok := selector.MatchLabels[key]; ok {
				return key, nil
			}
		}
		if keys := slices.Sorted(maps.Keys(selector.MatchLabels)); len(keys) > 0 {
			return keys[0], nil
		}
	}
	return "", fmt.Errorf("its %s selects by no label's value: a pod cannot leave it", kind)
}

// release takes a pod out of its owner's selection by a label's value, and notes
// what it was. Released again it stays as it is.
func release(pod *corev1.Pod, label string) error {
	if pod.Annotations[v1alpha1.AnnotationReleased] != "" {
		return nil
	}
	note, err := json.Marshal(released{Labels: map[string]string{label: pod.Labels[label]}})
	if err != nil {
		return fmt.Errorf("labels of pod %s: %w", pod.Name, err)
	}
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	pod.Annotations[v1alpha1.AnnotationReleased] = string(note)
	pod.Labels[label] = "moving"
	return nil
}

// putBack undoes release; it says whether there was anything to undo.
func putBack(pod *corev1.Pod) (bool, error) {
	note := pod.Annotations[v1alpha1.AnnotationReleased]
	if note == "" {
		return false, nil
	}
	var was released
	if err := json.Unmarshal([]byte(note), &was); err != nil {
		return false, fmt.Errorf("annotation %s of pod %s: %w", v1alpha1.AnnotationReleased, pod.Name, err)
	}
	if pod.Labels == nil {
		pod.Labels = map[string]string{}
	}
	maps.Copy(pod.Labels, was.Labels)
	delete(pod.Annotations, v1alpha1.AnnotationReleased)
	return true, nil
}
