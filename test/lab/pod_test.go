package lab

import (
	"slices"
	"testing"
)

func TestContainersOfAPodHaveDifferentNames(t *testing.T) {
	spec := PodSpec{Containers: []ContainerSpec{{Image: "redis"}, {Image: "localhost/redis:8"}, {Image: "nginx"}, {Image: "redis", Name: "third"}, {Image: "redis"}}}
	var names []string
	for i := range spec.Containers {
		names = append(names, spec.containerName(i))
	}
	if want := []string{"redis", "redis-2", "nginx", "third", "redis-3"}; !slices.Equal(names, want) {
		t.Errorf("names %v, want %v", names, want)
	}
}
