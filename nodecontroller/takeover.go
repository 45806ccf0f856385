package nodecontroller

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// A late pod is made when the source's pod has left the cluster, which the source sees to
// when it has decided. If its node dies before it has, nobody does: that node's kubelet
// alone would say that its pod has ended, and a cluster waits for that without end. The
// destination knows that the pod is its own, by the source's word or an operator's, and
// that no process of it runs over there any more, nor ever will: they were frozen, the
// decision killed them, and their shim lets nothing start in the pod. So it may remove the
// source's pod from the cluster, whatever has become of that node, and it is better removed:
// started again, the node would run the pod afresh while it is still in the cluster.

// takeOverAfter is how long after the decision the source may take to have its pod
// replaced.
const takeOverAfter = 10 * time.Second

// replaceIfNobodyDoes has the cluster replace the source's pod if that has not been done in
// time. The returned function gives that up, and waits for its end.
func (m *incoming) replaceIfNobodyDoes(parent context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(parent)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if pause(ctx, m.d.takeOverAfter) == nil {
			m.replaceSource(ctx)
		}
	}()
	return func() {
		cancel()
		<-ended
	}
}

// replaceSource does what the source has to do after its decision; all of it is harmless
// where it was done.
func (m *incoming) replaceSource(ctx context.Context) {
	o := recovered{m.d, m.current()}
	for told := false; ; told = true {
		err := o.Agree(ctx, m.id)
		if err == nil {
			err = o.MakePod(ctx, m.id)
		}
		if err == nil {
			err = o.RemoveSource(ctx, m.id)
		}
		switch {
		case err == nil:
			m.log.Info("the source's pod is not in the cluster any more")
			return
		case ctx.Err() != nil:
			return
		case errors.Is(err, ErrCancelled):
			m.log.Error("the cluster wants no such migration any more, the pod is not asked for", "error", err)
			return
		}
		m.log.Warn("the cluster has not replaced the source's pod yet", "error", err)
		if !told {
			m.say(fmt.Sprintf("the source does not have its pod replaced, and the cluster does not do so for this node either yet: %v", err))
		}
		if pause(ctx, askAgain) != nil {
			return
		}
	}
}
