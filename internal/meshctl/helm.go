package meshctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"time"

	"github.com/spf13/cobra"
	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chartutil"
	helmcli "helm.sh/helm/v3/pkg/cli"
	helmvalues "helm.sh/helm/v3/pkg/cli/values"
	"helm.sh/helm/v3/pkg/getter"
	helmrelease "helm.sh/helm/v3/pkg/release"
	"helm.sh/helm/v3/pkg/storage/driver"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/charts"
)

// helmDriver keeps releases where `helm` looks for them.
const helmDriver = "secret"

// chartFlags are the flags of commands that install a chart.
type chartFlags struct {
	values        helmvalues.Options
	registry, tag string
}

func (f *chartFlags) add(cmd *cobra.Command, chart string) {
	f.addValues(cmd, chart)
	cmd.Flags().StringVar(&f.registry, "image-registry", "", "registry and path that images come from; as --set image.registry=…")
	cmd.Flags().StringVar(&f.tag, "image-tag", "", "tag of the image; as --set image.tag=…")
}

// addValues adds the flags of a chart that has no image of ours.
func (f *chartFlags) addValues(cmd *cobra.Command, chart string) {
	flags := cmd.Flags()
	flags.StringArrayVar(&f.values.Values, "set", nil, "value of chart "+chart+", as KEY=VALUE; may be repeated")
	flags.StringSliceVarP(&f.values.ValueFiles, "values", "f", nil, "YAML file with values of chart "+chart+"; may be repeated")
}

// merged returns the values that the flags ask for, with own over them.
func (f *chartFlags) merged(own map[string]any) (map[string]any, error) {
	given, err := f.values.MergeValues(getter.All(helmcli.New()))
	if err != nil {
		return nil, usageError{err}
	}
	image := map[string]any{}
	if f.registry != "" {
		image["registry"] = f.registry
	}
	if f.tag != "" {
		image["tag"] = f.tag
	}
	over := map[string]any{}
	maps.Copy(over, own)
	if len(image) > 0 {
		over["image"] = image
	}
	return chartutil.MergeTables(over, given), nil
}

// release is one of our charts to be in a cluster. It goes by the chart's name.
type release struct {
	chart, namespace string
	values           map[string]any
}

// upgraded returns the release as apply makes it: with the values that were given earlier, unless they are given anew.
func (c *cluster) upgraded(r release) (release, error) {
	config, err := c.helm(r.namespace)
	if err != nil {
		return r, err
	}
	earlier, err := config.Releases.Deployed(r.chart)
	if errors.Is(err, driver.ErrNoDeployedReleases) {
		earlier, err = config.Releases.Last(r.chart)
	}
	if errors.Is(err, driver.ErrReleaseNotFound) {
		return r, nil
	}
	if err != nil {
		return r, fmt.Errorf("%s: reading Helm release %s: %w", c.role, r.chart, err)
	}
	// On a copy: a null, which takes an earlier value away, is gone afterwards.
	r.values = chartutil.CoalesceTables(runtime.DeepCopyJSON(r.values), earlier.Config)
	return r, nil
}

// render returns the release's manifests as they would be applied to a cluster of that version of Kubernetes.
func (r release) render(kubernetes string) (string, error) {
	chart, err := charts.Load(r.chart)
	if err != nil {
		return "", err
	}
	version, err := chartutil.ParseKubeVersion(kubernetes)
	if err != nil {
		return "", err
	}
	install := action.NewInstall(&action.Configuration{Log: func(string, ...any) {}})
	install.ClientOnly, install.DryRun = true, true
	install.ReleaseName, install.Namespace, install.KubeVersion = r.chart, r.namespace, version
	rendered, err := install.Run(chart, r.values)
	if err != nil {
		return "", fmt.Errorf("chart %s: %w", r.chart, err)
	}
	return rendered.Manifest, nil
}

// helm returns Helm's view of a namespace.
func (c *cluster) helm(namespace string) (*action.Configuration, error) {
	flags := genericclioptions.NewConfigFlags(true).WithDiscoveryBurst(300).WithDiscoveryQPS(50)
	flags.KubeConfig, flags.Context, flags.Namespace = c.getter.KubeConfig, c.getter.Context, &namespace
	config := &action.Configuration{}
	if err := config.Init(flags, namespace, helmDriver, c.progress.details); err != nil {
		return nil, fmt.Errorf("%s: %w", c.role, err)
	}
	return config, nil
}

// apply installs or upgrades the release and waits until what it runs is ready. On an upgrade, values that were given
// earlier stay unless they are given anew. What an interrupted call left behind is taken up.
func (c *cluster) apply(ctx context.Context, r release) error {
	chart, err := charts.Load(r.chart)
	if err != nil {
		return err
	}
	config, err := c.helm(r.namespace)
	if err != nil {
		return err
	}
	deadline, _ := ctx.Deadline()
	timeout := time.Until(deadline)
	last, err := config.Releases.Last(r.chart)
	if err != nil && !errors.Is(err, driver.ErrReleaseNotFound) {
		return fmt.Errorf("%s: reading Helm release %s: %w", c.role, r.chart, err)
	}
	// The kinds may have been applied by hand before; they are the same ones.
	takeOwnership := r.chart == charts.CRDs
	c.progress.waits("installing chart " + r.chart + " in " + c.role)
	if last == nil {
		install := action.NewInstall(config)
		install.ReleaseName, install.Namespace, install.CreateNamespace = r.chart, r.namespace, true
		install.Wait, install.Timeout, install.TakeOwnership = true, timeout, takeOwnership
		_, err = install.RunWithContext(ctx, chart, r.values)
	} else {
		if err := abandoned(config, last, timeout); err != nil {
			return fmt.Errorf("%s: %w", c.role, err)
		}
		upgrade := action.NewUpgrade(config)
		upgrade.Namespace, upgrade.MaxHistory, upgrade.ResetThenReuseValues = r.namespace, 5, true
		upgrade.Wait, upgrade.Timeout, upgrade.TakeOwnership = true, timeout, takeOwnership
		_, err = upgrade.RunWithContext(ctx, r.chart, chart, r.values)
	}
	if err != nil {
		return fmt.Errorf("%s: chart %s: %w%s", c.role, r.chart, err, c.podTroubles(r))
	}
	return nil
}

// abandoned lets a release be upgraded whose last change or removal was interrupted, so that Helm takes it for being changed by
// somebody else, or for gone. That somebody may exist: a change younger than timeout is left alone.
func abandoned(config *action.Configuration, last *helmrelease.Release, timeout time.Duration) error {
	since := last.Info.LastDeployed
	switch {
	case last.Info.Status == helmrelease.StatusUninstalling:
		since = last.Info.Deleted
	case !last.Info.Status.IsPending():
		return nil
	}
	if age := time.Since(since.Time); age < timeout {
		return fmt.Errorf("helm release %s is being changed by somebody, or was interrupted %s ago; try again in %s",
			last.Name, age.Round(time.Second), (timeout - age).Round(time.Second))
	}
	last.SetStatus(helmrelease.StatusFailed, "interrupted")
	return config.Releases.Update(last)
}

// podTroubles tells what keeps the pods of a release from being ready, "" if nothing is known.
func (c *cluster) podTroubles(r release) string {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second) // the caller's time may be up
	defer cancel()
	pods := &corev1.PodList{}
	if err := c.List(ctx, pods, client.InNamespace(r.namespace), client.MatchingLabels{"app.kubernetes.io/instance": r.chart}); err != nil {
		return ""
	}
	for _, pod := range pods.Items {
		for _, s := range pod.Status.ContainerStatuses {
			switch {
			case s.State.Waiting != nil && s.State.Waiting.Message != "":
				return fmt.Sprintf("; pod %s: %s: %s", pod.Name, s.State.Waiting.Reason, s.State.Waiting.Message)
			case s.State.Terminated != nil || s.RestartCount > 0:
				return fmt.Sprintf("; pod %s ends and is restarted: see `kubectl -n %s logs %s --previous`", pod.Name, pod.Namespace, pod.Name)
			}
		}
		for _, cond := range pod.Status.Conditions {
			if cond.Type == corev1.PodScheduled && cond.Status == corev1.ConditionFalse {
				return fmt.Sprintf("; pod %s is not scheduled: %s", pod.Name, cond.Message)
			}
		}
	}
	return ""
}

// remove uninstalls a release, if it is there.
func (c *cluster) remove(ctx context.Context, chart, namespace string) error {
	config, err := c.helm(namespace)
	if err != nil {
		return err
	}
	deadline, _ := ctx.Deadline()
	uninstall := action.NewUninstall(config)
	uninstall.IgnoreNotFound, uninstall.Timeout = true, time.Until(deadline)
	if _, err := uninstall.Run(chart); err != nil {
		return fmt.Errorf("%s: chart %s: %w", c.role, chart, err)
	}
	return nil
}

// manifests prints YAML documents below a comment that says where they belong.
func manifests(w io.Writer, where, documents string) {
	_, _ = fmt.Fprintf(w, "# ---- %s ----\n%s\n", where, documents)
}
