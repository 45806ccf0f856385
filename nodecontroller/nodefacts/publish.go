package nodefacts

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Publish writes a node's facts to its Node object, unless they are there already.
// It goes by the status, by which annotations can be changed too: the right to patch
// nodes/status is less than that to patch nodes, which could cordon any of them.
func Publish(ctx context.Context, c client.Client, node string, f Facts) error {
	text, err := f.Encode()
	if err != nil {
		return err
	}
	var n corev1.Node
	if err := c.Get(ctx, client.ObjectKey{Name: node}, &n); err != nil {
		return fmt.Errorf("facts of node %s: %w", node, err)
	}
	if n.Annotations[Annotation] == text {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]string{Annotation: text}}})
	if err != nil {
		return fmt.Errorf("facts of node %s: %w", node, err)
	}
	if err := c.Status().Patch(ctx, &n, client.RawPatch(types.MergePatchType, patch)); err != nil {
		return fmt.Errorf("facts of node %s: %w", node, err)
	}
	return nil
}

// Of are the facts that a Node object bears; false if it bears none.
func Of(n *corev1.Node) (Facts, bool, error) {
	text, ok := n.Annotations[Annotation]
	if !ok {
		return Facts{}, false, nil
	}
	f, err := Decode(text)
	if err == nil && f.Node != n.Name {
		err = fmt.Errorf("%w: they are those of node %s", ErrMalformed, f.Node)
	}
	if err != nil {
		return Facts{}, true, fmt.Errorf("node %s: %w", n.Name, err)
	}
	return f, true, nil
}

// How often Keep looks again, and how soon after it failed.
const (
	every      = 10 * time.Minute
	afterError = 15 * time.Second
)

// Keep publishes a node's facts at once, and again when they have changed, until
// ctx ends. facts is asked each time, and may take seconds; failed hears of each
// failure.
func Keep(ctx context.Context, c client.Client, node string, facts func(context.Context) Facts, failed func(error)) error {
	for {
		next := every
		if err := Publish(ctx, c, node, facts(ctx)); err != nil && ctx.Err() == nil {
			failed(err)
			next = afterError
		}
		t := time.NewTimer(next)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil
		}
	}
}
