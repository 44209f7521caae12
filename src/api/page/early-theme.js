// Runs before the first paint, so that a chosen theme does not flash the other one. Without a choice the system's counts.
{
  const chosen = localStorage.getItem('market-sync.theme');
  if (chosen === 'light' || chosen === 'dark') document.documentElement.dataset.theme = chosen;
}
