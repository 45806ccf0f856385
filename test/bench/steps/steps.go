// Package steps is how a bench is divided: into steps that can be run alone, by their names. What a step does is the bench's.
package steps

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// Step is a part of a bench that collects its figures in a B.
type Step[B any] struct {
	Name string
	// Alone says that it needs no nodes, and leaves those alone that there are.
	Alone bool
	Run   func(B, context.Context) error
}

// NeedNodes says whether any of these steps needs nodes.
func NeedNodes[B any](some []Step[B]) bool {
	return slices.ContainsFunc(some, func(s Step[B]) bool { return !s.Alone })
}

// Names are those of steps, with commas.
func Names[B any](all []Step[B]) string {
	var names []string
	for _, s := range all {
		names = append(names, s.Name)
	}
	return strings.Join(names, ", ")
}

// Choose returns the steps that only names, with commas; all of them if it is empty.
func Choose[B any](all []Step[B], only string) ([]Step[B], error) {
	if only == "" {
		return all, nil
	}
	var chosen []Step[B]
	for _, name := range strings.Split(only, ",") {
		i := slices.IndexFunc(all, func(s Step[B]) bool { return s.Name == name })
		if i < 0 {
			return nil, fmt.Errorf("no step has the name %q: use some of %s", name, Names(all))
		}
		chosen = append(chosen, all[i])
	}
	return chosen, nil
}
