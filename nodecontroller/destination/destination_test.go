package destination

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
)

var arrival = Arrival{
	Migration: "pm-1", PodMigration: "move", Node: "b", Hostname: "cache",
	Images: map[string]string{"redis": "redis@sha256:1", "proxy": "proxy@sha256:2"},
}

func source() *corev1.Pod {
	always := corev1.ContainerRestartPolicyAlways
	priority := int32(7)
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "shop", Name: "cache", UID: "1", ResourceVersion: "5",
			Labels:          map[string]string{"app": "cache"},
			Annotations:     map[string]string{"team": "x", v1alpha1.AnnotationReleased: "{}"},
			OwnerReferences: []metav1.OwnerReference{{Name: "set"}},
			Finalizers:      []string{"f"},
		},
		Spec: corev1.PodSpec{
			NodeName: "a",
			Priority: &priority,
			InitContainers: []corev1.Container{
				{Name: "setup"},
				{Name: "proxy", ImagePullPolicy: corev1.PullNever, RestartPolicy: &always, StartupProbe: &corev1.Probe{}},
			},
			Containers: []corev1.Container{
				{Name: "redis", Image: "redis:7", ImagePullPolicy: corev1.PullAlways, Lifecycle: &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{}, PreStop: &corev1.LifecycleHandler{}}, StartupProbe: &corev1.Probe{}},
				{Name: "log", Image: "log:1", ImagePullPolicy: corev1.PullAlways, Lifecycle: &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{}}},
			},
			EphemeralContainers: []corev1.EphemeralContainer{{}},
		},
		Status: corev1.PodStatus{Phase: corev1.PodRunning},
	}
}

func TestACopyIsAnUnownedPodOfTheDestination(t *testing.T) {
	src := source()
	before := src.DeepCopy()
	pod := Copy(src, "cache-abcde", arrival)
	if pod.Name != "cache-abcde" || pod.Namespace != "shop" || pod.Spec.NodeName != "b" || pod.UID != "" || pod.ResourceVersion != "" {
		t.Errorf("identity: %+v on %q", pod.ObjectMeta, pod.Spec.NodeName)
	}
	if len(pod.OwnerReferences) != 0 || len(pod.Finalizers) != 0 || pod.Status.Phase != "" || pod.Spec.Priority != nil || pod.Spec.EphemeralContainers != nil {
		t.Errorf("it has something of the source's stay: %+v", pod)
	}
	want := map[string]string{"team": "x", v1alpha1.AnnotationMigration: "pm-1", v1alpha1.AnnotationMovedBy: "move", v1alpha1.AnnotationOrigin: "cache"}
	if len(pod.Annotations) != len(want) {
		t.Errorf("annotations %v", pod.Annotations)
	}
	for k, v := range want {
		if pod.Annotations[k] != v {
			t.Errorf("annotation %s is %q, want %q", k, pod.Annotations[k], v)
		}
	}
	if pod.Labels["app"] != "cache" || pod.Spec.Hostname != "cache" {
		t.Errorf("labels %v, host name %q", pod.Labels, pod.Spec.Hostname)
	}
	if src.String() != before.String() {
		t.Error("the source was changed")
	}
}

func TestWhatHasHappenedToTheProcessesHappensNotAgain(t *testing.T) {
	for name, pod := range map[string]*corev1.Pod{"copy": Copy(source(), "n", arrival), "adapted": adapted(source())} {
		if len(pod.Spec.InitContainers) != 1 || pod.Spec.InitContainers[0].Name != "proxy" || pod.Spec.InitContainers[0].StartupProbe != nil {
			t.Errorf("%s: init containers %+v", name, pod.Spec.InitContainers)
		}
		redis, log := pod.Spec.Containers[0], pod.Spec.Containers[1]
		if redis.Lifecycle == nil || redis.Lifecycle.PostStart != nil || redis.Lifecycle.PreStop == nil || redis.StartupProbe == nil {
			t.Errorf("%s: redis %+v", name, redis)
		}
		if log.Lifecycle != nil {
			t.Errorf("%s: log %+v", name, log.Lifecycle)
		}
	}
}

func TestAContainerIsMadeFromTheImageThatTheSourceHas(t *testing.T) {
	pod := Copy(source(), "n", arrival)
	proxy, redis, log := pod.Spec.InitContainers[0], pod.Spec.Containers[0], pod.Spec.Containers[1]
	if redis.Image != "redis@sha256:1" || redis.ImagePullPolicy != corev1.PullIfNotPresent {
		t.Errorf("redis: %s, pulled %s", redis.Image, redis.ImagePullPolicy)
	}
	if proxy.Image != "proxy@sha256:2" || proxy.ImagePullPolicy != corev1.PullNever {
		t.Errorf("proxy: %s, pulled %s", proxy.Image, proxy.ImagePullPolicy)
	}
	if log.Image != "log:1" || log.ImagePullPolicy != corev1.PullAlways {
		t.Errorf("log: %s, pulled %s", log.Image, log.ImagePullPolicy)
	}
}

func adapted(pod *corev1.Pod) *corev1.Pod {
	Adapt(pod, arrival)
	return pod
}

func TestAnAdaptedPodCanBeScheduledToTheDestinationOnly(t *testing.T) {
	zone := corev1.NodeSelectorRequirement{Key: "zone", Operator: corev1.NodeSelectorOpIn, Values: []string{"z"}}
	for name, terms := range map[string][]corev1.NodeSelectorTerm{
		"none":         nil,
		"two":          {{MatchExpressions: []corev1.NodeSelectorRequirement{zone}}, {}},
		"another node": {{MatchFields: []corev1.NodeSelectorRequirement{{Key: nodeNameField, Operator: corev1.NodeSelectorOpIn, Values: []string{"a"}}}}},
	} {
		pod := &corev1.Pod{}
		if terms != nil {
			pod.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
				RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: terms},
			}}
		}
		Adapt(pod, arrival)
		got := pod.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
		if len(got) != max(1, len(terms)) {
			t.Errorf("%s: terms %+v", name, got)
		}
		for i, term := range got {
			if len(term.MatchFields) != 1 || term.MatchFields[0].Values[0] != "b" {
				t.Errorf("%s: term %d: %+v", name, i, term)
			}
			if i < len(terms) && len(term.MatchExpressions) != len(terms[i].MatchExpressions) {
				t.Errorf("%s: term %d lost what it asked for: %+v", name, i, term)
			}
		}
	}
}

func TestANameKeepsThatOfBeforeTheFirstMove(t *testing.T) {
	first := NameOf(source())
	if !strings.HasPrefix(first, "cache-") || len(first) != len("cache-")+5 {
		t.Errorf("first name %q", first)
	}
	again := NameOf(Copy(source(), first, arrival))
	if !strings.HasPrefix(again, "cache-") || len(again) != len(first) || again == first {
		t.Errorf("second name %q after %q", again, first)
	}
	long := source()
	long.Name = strings.Repeat("x", 253)
	if n := NameOf(long); len(n) != 253 {
		t.Errorf("a long name became one of %d characters", len(n))
	}
}

func TestAHostNameIsWhatKubeletGives(t *testing.T) {
	for name, want := range map[string]string{
		"cache":                         "cache",
		strings.Repeat("x", 70):         strings.Repeat("x", 63),
		strings.Repeat("x", 62) + "-yz": strings.Repeat("x", 62),
	} {
		if got := Hostname(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}}); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if got := Hostname(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "n"}, Spec: corev1.PodSpec{Hostname: "h"}}); got != "h" {
		t.Errorf("the pod's own: %q", got)
	}
}
